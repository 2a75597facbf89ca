"""What each client is made to do. These modules run in the clients' own environment and import nothing of the project
but `common`; each writes what it saw as JSON."""
