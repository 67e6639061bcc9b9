//! A certificate authority of one's own and a server certificate for 127.0.0.1, made with openssl.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Files of a test's authority.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// The authority's certificate, which clients trust.
    pub authority: PathBuf,
    /// The server's private key and chain in one PEM file, as Kafka's PEM key store wants it.
    pub server: PathBuf,
}

impl Certificates {
    /// Makes them in `directory`.
    pub fn make(directory: &Path) -> Self {
        let path = |name: &str| directory.join(name).display().to_string();
        let key = ["-newkey", "rsa:2048", "-nodes", "-days", "2"];
        openssl(
            &[
                &["req", "-x509", "-subj", "/CN=Test authority", "-keyout", &path("ca.key"), "-out", &path("ca.pem")],
                &key[..],
            ]
            .concat(),
        );
        openssl(&[
            "req",
            "-subj",
            "/CN=127.0.0.1",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            &path("server.key"),
            "-out",
            &path("server.csr"),
        ]);
        fs::write(path("names.cnf"), "subjectAltName=IP:127.0.0.1,DNS:localhost\n").unwrap();
        openssl(&[
            "x509",
            "-req",
            "-days",
            "2",
            "-in",
            &path("server.csr"),
            "-CA",
            &path("ca.pem"),
            "-CAkey",
            &path("ca.key"),
            "-CAcreateserial",
            "-extfile",
            &path("names.cnf"),
            "-out",
            &path("server.pem"),
        ]);
        // Kafka reads PKCS #8 keys, which is what `req -nodes` writes.
        let joined = [fs::read(path("server.key")).unwrap(), fs::read(path("server.pem")).unwrap()].concat();
        fs::write(path("store.pem"), joined).unwrap();
        Self { authority: directory.join("ca.pem"), server: directory.join("store.pem") }
    }
}

fn openssl(arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).output().unwrap_or_else(|e| panic!("cannot run openssl: {e}"));
    assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
