//! recounting
