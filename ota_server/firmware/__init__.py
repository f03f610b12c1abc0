"""What there is to serve: names, versions, images and the catalog of a folder."""
