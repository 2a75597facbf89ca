"""A fleet of servers as a discrete-event simulation, with service times that were measured on a real one."""
