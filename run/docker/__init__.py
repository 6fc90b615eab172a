"""What `run.containers` needs of Docker: the engine, images, one project, and what is handed over."""
