//! The server driven as its clients drive it.
