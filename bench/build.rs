//! Tells the benchmark how far the compiler optimises it: no `cfg` does.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let level = std::env::var("OPT_LEVEL").unwrap_or_default();
    println!("cargo:rustc-env=HOLDFAST_BENCH_OPT_LEVEL={level}");
}
