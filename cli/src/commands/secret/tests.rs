//! Whole commands against a controller in memory that keeps secrets.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use clap::Parser as _;
use shoal_proto::v1::secrets_server::{Secrets, SecretsServer};
use shoal_proto::v1::{ListSecretsResponse, RemoveSecretResponse, Secret};
use tonic::{Request, Response, Status, transport::Server};

use super::*;
use crate::args::Cli;
use crate::testing::Site;

/// The versions of each secret.
#[derive(Debug, Clone, Default)]
struct Fake(Arc<Mutex<BTreeMap<String, Vec<Vec<u8>>>>>);

impl Fake {
    fn keep(&self, name: String, value: Vec<u8>) -> SetSecretResponse {
        let mut all = self.0.lock().unwrap();
        let versions = all.entry(name).or_default();
        versions.push(value);
        let version = u64::try_from(versions.len()).unwrap();
        SetSecretResponse { version, changed: true, used_by: vec!["shop".into()] }
    }
}

#[tonic::async_trait]
impl Secrets for Fake {
    async fn set(
        &self,
        request: Request<SetSecretRequest>,
    ) -> Result<Response<SetSecretResponse>, Status> {
        let SetSecretRequest { name, value } = request.into_inner();
        Ok(Response::new(self.keep(name, value.to_vec())))
    }

    async fn generate(
        &self,
        request: Request<GenerateSecretRequest>,
    ) -> Result<Response<SetSecretResponse>, Status> {
        let GenerateSecretRequest { name, length, if_absent } = request.into_inner();
        if if_absent && self.0.lock().unwrap().contains_key(&name) {
            let left = SetSecretResponse { version: 1, changed: false, used_by: vec![] };
            return Ok(Response::new(left));
        }
        let length = usize::try_from(length).unwrap();
        Ok(Response::new(self.keep(name, vec![b'x'; length])))
    }

    async fn list(
        &self,
        _: Request<ListSecretsRequest>,
    ) -> Result<Response<ListSecretsResponse>, Status> {
        let secret = |name: &String| Secret { name: name.clone(), version: 1, ..Secret::default() };
        let secrets = self.0.lock().unwrap().keys().map(secret).collect();
        Ok(Response::new(ListSecretsResponse { secrets }))
    }

    async fn remove(
        &self,
        request: Request<RemoveSecretRequest>,
    ) -> Result<Response<RemoveSecretResponse>, Status> {
        let name = request.into_inner().name;
        let Some(versions) = self.0.lock().unwrap().remove(&name) else {
            return Err(Status::not_found(format!("there is no secret {name}")));
        };
        let versions = u64::try_from(versions.len()).unwrap();
        Ok(Response::new(RemoveSecretResponse { versions }))
    }
}

struct World {
    fake: Fake,
    dir: tempfile::TempDir,
}

async fn world() -> World {
    let fake = Fake::default();
    let router = Server::builder().add_service(SecretsServer::new(fake.clone()));
    let site = Site::new();
    let context = site.context(&site.serve(router).await);
    let dir = tempfile::tempdir().unwrap();
    let config = format!(
        "current = \"test\"\n[context.test]\ncontroller = {:?}\nca = {:?}\n\
         certificate = {:?}\nkey = {:?}\n",
        context.controller, context.ca, context.certificate, context.key
    );
    shoal_tls::write_private(&dir.path().join("config.toml"), config.as_bytes()).unwrap();
    World { fake, dir }
}

impl World {
    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Carries out a command line in which `FILE` is the file `value`. Its exit code and error.
    async fn run(&self, line: &str) -> (u8, String) {
        let (config, file) = (self.path("config.toml"), self.path("value"));
        let words = line.split(' ').map(|word| if word == "FILE" { file.as_str() } else { word });
        let line = ["shoal", "--config", &config].into_iter().chain(words);
        match crate::commands::run(Cli::try_parse_from(line).unwrap()).await {
            Ok(exit) => (exit.code(), String::new()),
            Err(failure) => (failure.exit().code(), failure.report().unwrap_or_default()),
        }
    }

    fn kept(&self, name: &str) -> Vec<Vec<u8>> {
        self.fake.0.lock().unwrap().get(name).cloned().unwrap_or_default()
    }
}

#[tokio::test]
async fn a_value_goes_from_a_file_to_the_controller() {
    let world = world().await;
    std::fs::write(Path::new(&world.path("value")), "hunter2\n").unwrap();
    for line in [
        "secret set db/creator --from-file FILE",
        "secret set db/creator --from-file FILE --keep-newline -o json",
    ] {
        assert_eq!(world.run(line).await, (0, String::new()), "{line}");
    }
    assert_eq!(world.kept("db/creator"), [b"hunter2".to_vec(), b"hunter2\n".to_vec()]);
    std::fs::write(Path::new(&world.path("value")), "\n").unwrap();
    let (code, error) = world.run("secret set db/creator --from-file FILE").await;
    assert_eq!(code, 2, "{error}");
    assert!(error.contains("is empty; nothing was kept"), "{error}");
    let (code, error) = world.run("secret set db/creator --from-file /nowhere").await;
    assert_eq!(code, 2, "{error}");
    assert!(error.starts_with("error: cannot read /nowhere; nothing was kept: "), "{error}");
    assert_eq!(world.kept("db/creator").len(), 2);
}

#[tokio::test]
async fn secrets_are_generated_listed_and_removed() {
    let world = world().await;
    for line in [
        "secret generate db",
        "secret generate db --if-absent",
        "secret generate db --length 8 -o json",
        "secret list",
        "secret ls -o json",
    ] {
        assert_eq!(world.run(line).await, (0, String::new()), "{line}");
    }
    assert_eq!(world.kept("db"), [vec![b'x'; 32], vec![b'x'; 8]]);
    assert_eq!(world.run("secret remove db").await.0, 0);
    let gone = "error: cannot remove secret db: there is no secret db".to_owned();
    assert_eq!(world.run("secret rm db -o json").await, (10, gone));
}
