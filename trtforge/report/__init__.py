"""Reports: a segmentation made visible, as one picture and as one page."""
