//! Load generators and side-by-side runs against the floor and a peer.
