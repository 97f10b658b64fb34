"""Image data sets of a user's own: folders, archives and lists of files, made into episode stores."""
