//! Questions between two instances over a real connection.
