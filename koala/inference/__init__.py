"""A trained network at work: photos in colour, folders of them, a gallery, exported programs."""
