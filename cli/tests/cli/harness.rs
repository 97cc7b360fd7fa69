//! Runs the command in folders of its own, on tiny models.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use thumbprint_fixtures::TinyModel;

/// A folder with tiny models and data in it.
pub struct Folder(TempDir);

impl Folder {
    /// An empty one.
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A file with this text.
    pub fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    /// A model's file.
    pub fn model(&self, name: &str, model: &TinyModel) -> PathBuf {
        model.write(self.path(name));
        self.path(name)
    }

    /// A tiny llama, `tiny.gguf`.
    pub fn tiny(&self) -> PathBuf {
        self.model("tiny.gguf", &TinyModel::llama())
    }

    /// Eight pairs, `pairs.jsonl`.
    pub fn pairs(&self) -> PathBuf {
        let row = |i: usize| {
            let (long, short) = (
                "It depends. ".repeat(1 + i % 3),
                ["Yes.", "No.", "Blue.", "Two."][i % 4],
            );
            pair(&format!("Is it number {i}?"), short, long.trim())
        };
        self.file("pairs.jsonl", (0..8).map(row).collect::<String>())
    }

    /// A recipe that has the base say little again: what takes longest on so small a model, `recipe.json`.
    pub fn small_recipe(&self) -> PathBuf {
        let recipe = serde_json::json!({ "west_of_n": few_replies() });
        self.file("recipe.json", recipe.to_string())
    }

    /// Names of all files in it.
    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// Settings under which the base says little again.
pub fn few_replies() -> Value {
    serde_json::json!({ "prompts": 8, "max_tokens": 16 })
}

/// A conversational row.
pub fn pair(prompt: &str, chosen: &str, rejected: &str) -> String {
    let message =
        |role: &str, content: &str| serde_json::json!([{ "role": role, "content": content }]);
    let row = serde_json::json!({
        "prompt": message("user", prompt),
        "chosen": message("assistant", chosen),
        "rejected": message("assistant", rejected),
    });
    format!("{row}\n")
}

/// The command, with nothing of this machine's settings.
pub fn thumbprint() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thumbprint"));
    // Number formats are measured once for all of these tests, not into the user's own cache.
    command
        .stdin(Stdio::null())
        .env("THUMBPRINT_CACHE", env!("CARGO_TARGET_TMPDIR"));
    command
}

/// How a run ended.
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// Waits for `command`.
    pub fn of(command: &mut Command) -> Self {
        command.output().unwrap().into()
    }

    /// Standard output as objects, one a line.
    pub fn objects(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        self.stdout.lines().map(parse).collect()
    }

    /// The only object.
    pub fn object(&self) -> Value {
        let objects = self.objects();
        assert_eq!(objects.len(), 1, "{}", self.stdout);
        objects.into_iter().next().unwrap()
    }

    /// # Panics
    /// Unless it succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        self
    }

    /// # Panics
    /// Unless it failed with this exit code and one line that contains every one of `words`.
    #[track_caller]
    pub fn failed(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        let errors: Vec<_> = self
            .stderr
            .lines()
            .filter(|line| line.starts_with("error: "))
            .collect();
        assert_eq!(errors.len(), 1, "{}", self.stderr);
        for word in words {
            assert!(errors[0].contains(word), "no {word:?} in: {}", errors[0]);
        }
        self
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

/// `train`, with what every run here has in common.
pub fn train(model: &Path, data: &Path, out: &Path) -> Command {
    let mut command = thumbprint();
    command
        .args([
            "train",
            "--threads",
            "1",
            "--learning-rate",
            "0.01",
            "--model",
        ])
        .arg(model);
    command.arg("--data").arg(data).arg("--out").arg(out);
    command
}

/// `score`.
pub fn score(model: &Path, data: &Path) -> Command {
    let mut command = thumbprint();
    command
        .args(["score", "--threads", "1", "--model"])
        .arg(model)
        .arg("--data")
        .arg(data);
    command
}
