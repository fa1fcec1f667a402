//! What is to be run: a component or a pipeline file, and what flags add around a component.

use super::failure::Failure;
use crate::config::{Config, MadeUp, Pipeline};
use clap::Args;
use std::path::PathBuf;

/// A component or a pipeline.
#[derive(Debug, Args)]
pub struct Source {
    /// A component (guest.wasm) or a pipeline file (pipeline.toml)
    #[arg(value_name = "GUEST|PIPELINE")]
    pub source: PathBuf,
    /// Gives a component a model under a short name; may be repeated
    #[arg(long = "model", value_name = "NAME=FILE", value_parser = model)]
    pub models: Vec<(String, PathBuf)>,
    /// Gives a component a key of its `config` (JSON, else text); may be repeated
    #[arg(long = "config", value_name = "KEY=VALUE", value_parser = pair)]
    pub config: Vec<(String, String)>,
}

impl Source {
    /// Reads the pipeline, or makes one up around the component, as this machine runs it.
    pub fn load(&self, config: &Config) -> Result<Pipeline, Failure> {
        let shown = self.source.display();
        let meta = std::fs::metadata(&self.source).map_err(|e| {
            Failure::usage(format!("{shown} cannot be read: {e}")).help("name a component (.wasm) or a pipeline file (.toml, .yaml)")
        })?;
        if meta.is_dir() {
            let files = ["pipeline.toml", "pipeline.yaml", "pipeline.yml"].map(|name| self.source.join(name));
            let file = files.iter().find(|file| file.is_file());
            let help =
                file.map_or_else(|| "name a .wasm, .toml or .yaml file".to_owned(), |file| format!("did you mean {}?", file.display()));
            return Err(Failure::usage(format!("{shown} is a folder")).help(help));
        }
        for (name, file) in &self.models {
            if !file.is_file() {
                return Err(Failure::usage(format!("--model {name}={}: no such file", file.display())).help("name an .onnx file"));
            }
        }
        let made_up = MadeUp { models: self.models.clone(), config: self.config.clone() };
        let pipeline = Pipeline::load(&self.source, &made_up, &config.limits)?;
        Ok(pipeline.placed(config, &self.source.display().to_string())?)
    }
}

/// `KEY=VALUE`; the value may hold further `=`.
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

fn model(text: &str) -> Result<(String, PathBuf), String> {
    let (name, file) = pair(text).map_err(|_| "expected NAME=FILE, such as det=models/det.onnx".to_owned())?;
    crate::task::id::check("model", &name)?;
    Ok((name, PathBuf::from(file)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;

    #[test]
    fn pairs_as_people_write_them() {
        assert_eq!(pair("a=b=c").unwrap(), ("a".into(), "b=c".into()));
        assert_eq!(pair("a=").unwrap(), ("a".into(), String::new()));
        assert!(pair("a").is_err());
        assert!(pair("=b").is_err());
        assert!(model("../x=f").is_err());
        assert_eq!(model("det=a/b.onnx").unwrap().1, PathBuf::from("a/b.onnx"));
    }

    #[test]
    fn a_missing_source_is_named() {
        let source = Source { source: "no/such.wasm".into(), models: vec![], config: vec![] };
        let text = source.load(&Config::load(&Overrides::default()).unwrap()).unwrap_err().to_string();
        assert!(text.contains("no/such.wasm") && text.contains("help:"), "{text}");
    }
}
