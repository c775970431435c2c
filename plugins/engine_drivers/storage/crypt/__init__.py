"""`crypt`: the rclone crypt format around any store, so that stock rclone reads what is written, and the reverse.

The format is rclone's (backend/crypt of rclone, described at https://rclone.org/crypt/): names by EME-AES-256,
content in blocks by NaCl secretbox, keys by scrypt. It binds neither the number of blocks nor the name of a file to its
content: truncation at a block's edge and swapped files are not seen. Whoever needs that keeps a manifest beside it.
"""
