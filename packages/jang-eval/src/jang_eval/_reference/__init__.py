"""What models are compared with: a server that is asked, or a file of what it said."""
