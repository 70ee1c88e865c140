"""From a file to arrays of the wanted size: pictures, masks, TIFF, resizing, tiles, and what is kept decoded."""
