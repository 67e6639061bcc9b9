//! Naming, splitting, checks and pictures.
