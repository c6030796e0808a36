//! TLS to PostgreSQL: what each `sslmode` takes, and what it refuses.

use clawfarm_model::Code;
use clawfarm_store::{Database, MasterKey, Store, StoreConfig};
use clawfarm_test_postgres::Server;
use secrecy::SecretString;

/// A certificate authority of this test's own.
struct Authority(rcgen::CertifiedIssuer<'static, rcgen::KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut of = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        of.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Self(rcgen::CertifiedIssuer::self_signed(of, rcgen::KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate for a name, and its key, as PEM.
    fn signs(&self, name: &str) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let of = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        (of.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_over_the_network_is_asked_who_it_is() {
    let (ours, others) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    let ca = |name: &str, authority: &Authority| {
        let file = folder.path().join(name);
        std::fs::write(&file, authority.0.pem()).unwrap();
        file.display().to_string()
    };
    let (our_ca, other_ca) = (ca("ours.pem", &ours), ca("others.pem", &others));
    // Its certificate is for a name that is not the address it is asked by.
    let (certificate, key) = ours.signs("db.example");
    let server = Server::with_tls(&certificate, &key);
    let database = server.database();
    let open = async |query: String| {
        let url = format!("postgres://postgres@{}/{}?{query}", server.address().unwrap(), database.name());
        let at = Database::postgres(&SecretString::from(url)).unwrap();
        Store::open(StoreConfig::new(at, MasterKey::from_bytes([1; 32]))).await
    };
    let refused = |opened: clawfarm_model::Result<Store>, why: &str| {
        let error = opened.map(drop).unwrap_err();
        assert!(error.fix_text().is_some() && error.code() != Code::NotFound, "{why}: {error:?}");
        error
    };
    // Without TLS it is not spoken to; with it, its authority is looked at, and then its name.
    refused(open("sslmode=disable".into()).await, "no TLS");
    let encrypted = open("sslmode=require".into()).await.unwrap();
    encrypted.close().await;
    let over_tls = database.sql("SELECT count(*) FROM pg_stat_ssl WHERE ssl");
    assert_eq!(over_tls, "0", "its connections are closed");
    let checked = open(format!("sslmode=verify-ca&sslrootcert={our_ca}")).await.unwrap();
    let over_tls = database.sql("SELECT count(*) > 0 FROM pg_stat_ssl WHERE ssl");
    assert_eq!(over_tls, "t");
    checked.ping().await.unwrap();
    checked.close().await;
    let error = refused(open(format!("sslmode=verify-ca&sslrootcert={other_ca}")).await, "another authority");
    assert!(
        error.message().contains("TLS") && error.fix_text().unwrap().contains("sslrootcert"),
        "{error:?}"
    );
    let error = refused(open(format!("sslmode=verify-full&sslrootcert={our_ca}")).await, "another name");
    assert!(error.message().contains("TLS"), "{error:?}");
    refused(open("sslmode=verify-full&sslrootcert=/nowhere/at/all".into()).await, "no such authority");

    // One whose certificate is for the address it is asked by is taken for what it is.
    let address = server.address().unwrap();
    let (certificate, key) = ours.signs(address.split(':').next().unwrap());
    server.stop();
    server.certify(&certificate, &key);
    server.start();
    let full = open(format!("sslmode=verify-full&sslrootcert={our_ca}")).await.unwrap();
    full.ping().await.unwrap();
    full.close().await;
}
