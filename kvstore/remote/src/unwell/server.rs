//! The server: `s3s`, which speaks S3, over `s3s-fs`, which keeps objects in files. See `kvstore/remote/tests/README.md`.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use hyper_util::rt::TokioIo;
use s3s::auth::{S3Auth, SecretKey};
use s3s::service::S3ServiceBuilder;
use s3s::{S3Error, S3ErrorCode, S3Result};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::proxy::{self, Talk};

/// Keys that the server knows; a test may change them.
#[derive(Clone, Debug, Default)]
pub struct Keys(Arc<Mutex<HashMap<String, String>>>);

impl Keys {
    /// From now on only this pair is good.
    pub fn set(&self, id: &str, secret: &str) {
        let pair = (id.to_owned(), secret.to_owned());
        *self.0.lock().unwrap() = HashMap::from([pair]);
    }
}

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let found = self.0.lock().unwrap().get(access_key).cloned();
        found
            .map(SecretKey::from)
            .ok_or_else(|| S3Error::new(S3ErrorCode::InvalidAccessKeyId))
    }
}

/// A running server with a bucket, and a proxy in front of it.
#[derive(Debug)]
pub struct Server {
    runtime: Option<Runtime>,
    /// Where everything of it lies.
    pub place: TempDir,
    /// What is said to the proxy.
    pub talk: Arc<Talk>,
    /// What the server knows.
    pub keys: Keys,
    /// Where the proxy listens.
    pub port: u16,
}

/// The key that the server wants at first.
pub const SECRET: &str = "a-secret-that-nobody-may-see";

/// The bucket there is.
pub const BUCKET: &str = "bucket";

impl Server {
    /// Starts it.
    pub fn start() -> Self {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir_all(place.path().join("store/bucket")).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("s3-server")
            .enable_all()
            .build()
            .unwrap();
        let (talk, keys) = (Arc::<Talk>::default(), Keys::default());
        let listen = || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            listener
        };
        let (server, front) = (listen(), listen());
        let (upstream, port) = (server.local_addr().unwrap(), front.local_addr().unwrap().port());
        let mut builder = S3ServiceBuilder::new(FileSystem::new(place.path().join("store")).unwrap());
        builder.set_auth(keys.clone());
        let service = builder.build();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(server).unwrap();
            while let Ok((socket, _)) = listener.accept().await {
                let connection =
                    hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
                let service = service.clone();
                tokio::spawn(async move {
                    let _ = connection.serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        let front_talk = talk.clone();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(front).unwrap();
            proxy::serve(listener, upstream, front_talk).await;
        });
        let this = Self {
            runtime: Some(runtime),
            place,
            talk,
            keys,
            port,
        };
        this.set_keys("first", SECRET);
        this
    }

    /// The keys that the server wants, and the file that the client reads them from.
    pub fn set_keys(&self, id: &str, secret: &str) {
        self.keys.set(id, secret);
        self.write_credentials(id, secret);
    }

    /// The file that a client reads its keys from.
    pub fn credentials(&self) -> PathBuf {
        self.place.path().join("credentials")
    }

    /// Writes that file, whatever the server knows.
    pub fn write_credentials(&self, id: &str, secret: &str) {
        let text = format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n");
        fs::write(self.credentials(), text).unwrap();
    }

    /// Where it is, the proxy in front of it.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Where the server keeps the objects of its bucket.
    pub fn bucket(&self) -> PathBuf {
        self.place.path().join("store").join(BUCKET)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
