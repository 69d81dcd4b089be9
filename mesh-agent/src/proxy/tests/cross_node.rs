//! Two pods of two nodes.
