//! Notes the compiler's version for the report, and generates the gRPC stubs.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let version = Command::new(rustc)
        .arg("--version")
        .output()
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=BENCH_RUSTC={}", version.trim());

    #[cfg(feature = "peers")]
    grpc();
}

/// A service with one unary method and one server stream, both of raw bytes.
#[cfg(feature = "peers")]
fn grpc() {
    use tonic_build::manual::{Builder, Method, Service};

    let blob = "crate::stacks::tonic::Blob";
    let codec = "tonic_prost::ProstCodec";
    let unary = Method::builder()
        .name("echo")
        .route_name("Echo")
        .input_type(blob)
        .output_type(blob)
        .codec_path(codec)
        .build();
    let stream = Method::builder()
        .name("items")
        .route_name("Items")
        .input_type(blob)
        .output_type(blob)
        .codec_path(codec)
        .server_streaming()
        .build();
    let service = Service::builder()
        .name("Yardstick")
        .package("bench")
        .method(unary)
        .method(stream)
        .build();
    Builder::new().compile(&[service]);
}
