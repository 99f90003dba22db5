"""What everything stands on: errors, files, progress, processes, pages. Nothing here is about colour."""
