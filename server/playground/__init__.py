"""The page that the server shows at `/`: static files, served from memory to everybody. Its calls to the API carry the
user's key like those of any client."""
