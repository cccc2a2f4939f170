//! How the command is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Where it begins: see `kernel::before_libc`.
    if std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64") {
        println!("cargo::rustc-link-arg-bin=berth-runtime=-Wl,-e,berth_before_libc");
    }
    // What compilers know to be hardly ever run lies apart: the kernel maps sixteen pages around each that is used.
    println!("cargo::rustc-link-arg-bin=berth-runtime=-Wl,-z,keep-text-section-prefix");
}
