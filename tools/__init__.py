"""What developers of HeartCode run: measuring, writing pages, testing. Nothing here is deployed."""
