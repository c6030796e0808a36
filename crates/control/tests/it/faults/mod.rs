//! Everything that takes more than one step, with something going wrong at every one of them:
//! an error, an error after the step was done, the death of the server. What is left is held
//! against one list of what must always hold ([`audit`]).

mod audit;
mod child;
mod errors;
mod home;
mod kills;
mod random;
mod scenario;
