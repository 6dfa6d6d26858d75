"""Reports: blocks of data, and the one self-contained page that shows them."""
