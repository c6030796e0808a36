//! The edge before claws made for the purpose.
