//! The starter models: fetched once, by the program under test itself, and shared by all tests.

use crate::programs;
use aws_lc_rs::digest;
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::OnceLock,
};

/// The folder that holds `minilm` and `smollm2`. The first call fetches what is missing.
pub fn dir() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let _alone = turn("models-pull");
        let output = programs::bulkhead()
            .args(["models", "pull"])
            .output()
            .expect("the program runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "bulkhead models pull: {said}");
        let dir = folder();
        for model in ["minilm", "smollm2"] {
            let manifest = dir.join(model).join("model.toml");
            assert!(manifest.is_file(), "{} is there", manifest.display());
        }
        dir
    })
}

/// Makes a model of the text-generating kind out of one file of these bytes, in a folder of its own
/// below `dir`. `more` are further lines of its manifest.
pub fn one_file(dir: &Path, name: &str, bytes: &[u8], more: &str) {
    let sum = digest::digest(&digest::SHA256, bytes);
    let sum: String = sum.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    let folder = dir.join(name);
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("model.gguf"), bytes).expect("a file");
    let manifest = format!(
        "name = \"{name}\"\nformat = \"gguf\"\ntask = \"generate\"\n{more}\n\
         [[files]]\nname = \"model.gguf\"\nsha256 = \"{sum}\"\n"
    );
    fs::write(folder.join("model.toml"), manifest).expect("a manifest");
}

/// Where the program keeps models for this user.
fn folder() -> PathBuf {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    if let Some(dir) = set("BULKHEAD_MODELS") {
        return dir;
    }
    let cache = set("XDG_CACHE_HOME").filter(|dir| dir.is_absolute());
    let cache = cache.or_else(|| set("HOME").map(|home| home.join(".cache")));
    cache.expect("HOME is set").join("bulkhead/models")
}

/// Waits until no other test, of this process or another, holds the turn of this name. Tests that
/// keep the processor busy, or measure it, take turns.
pub fn turn(name: &str) -> File {
    let path = programs::path("bulkhead").with_file_name(format!("tests-{name}.lock"));
    let file = File::create(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    file.lock().expect("locks work here");
    file
}
