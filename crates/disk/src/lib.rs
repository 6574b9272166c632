//! Disks as people name them: a format, a file, layers over it.
