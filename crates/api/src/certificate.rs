//! The certificates of the edge.

use clawfarm_model::certificate::Certificate;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The certificates of a server's edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CertificateList {
    /// The certificates, by name; none where the edge has no TLS.
    pub items: Vec<Certificate>,
}
