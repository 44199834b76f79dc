//! The S3-speaking server of this room's tests, by itself, for tests in other languages and for a look by hand:
//! `cargo run -p kvstore-remote --example s3_server -- DIRECTORY`.
//!
//! It keeps objects in files below the directory, in the bucket `bucket`, writes the address it listens at in one line to
//! standard output, and ends when its standard input does. It knows one pair of keys, `kvtier` and `kvtier-secret`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a tool for tests: what fails ends it, and its address is its output"
)]

use std::io::Read;
use std::path::PathBuf;

use hyper_util::rt::{TokioExecutor, TokioIo};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;

fn main() {
    let directory = PathBuf::from(std::env::args_os().nth(1).unwrap());
    std::fs::create_dir_all(directory.join("bucket")).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let mut builder = S3ServiceBuilder::new(FileSystem::new(&directory).unwrap());
    builder.set_auth(SimpleAuth::from_single("kvtier", "kvtier-secret"));
    let service = builder.build();
    runtime.spawn(async move {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("http://{}", listener.local_addr().unwrap());
        while let Ok((socket, _)) = listener.accept().await {
            let service = service.clone();
            tokio::spawn(async move {
                let connection = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = connection.serve_connection(TokioIo::new(socket), service).await;
            });
        }
    });
    let mut nothing = Vec::new();
    let _ = std::io::stdin().read_to_end(&mut nothing);
    runtime.shutdown_background();
}
