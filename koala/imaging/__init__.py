"""Pictures without networks: colour spaces, photo files, their metadata, toned photographs, layers."""
