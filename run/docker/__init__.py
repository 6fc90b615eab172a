"""What `run.containers` needs of Docker: engine, images, one project, what is handed over."""
