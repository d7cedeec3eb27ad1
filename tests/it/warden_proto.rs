//! The code for `schema/warden.proto` is committed, so that no build needs a compiler of protocols. This sees that it is
//! what the protocol says.

use crate::harness::root;

#[test]
#[allow(clippy::disallowed_methods, reason = "tests are not configured")]
fn the_generated_code_is_what_the_protocol_says() {
    let (schema, made) = (root().join("schema"), tempfile::tempdir().expect("a folder"));
    let protocol = protox::compile(["warden.proto"], [&schema]).expect("a sound protocol");
    tonic_prost_build::configure()
        .build_transport(false)
        .emit_rerun_if_changed(false)
        .out_dir(made.path())
        .compile_fds(protocol)
        .expect("code");
    let fresh = std::fs::read_to_string(made.path().join("trellis.warden.v1.rs")).expect("the code");
    let committed = schema.join("warden.rs");
    if std::env::var_os("TRELLIS_GENERATE").is_some() {
        std::fs::write(&committed, &fresh).expect("written");
    }
    assert!(
        std::fs::read_to_string(&committed).is_ok_and(|text| text == fresh),
        "schema/warden.rs is not what schema/warden.proto says; make it anew with\n\
         TRELLIS_GENERATE=1 cargo test --all-features --test it warden_proto"
    );
}
