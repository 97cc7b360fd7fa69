//! LoRA adapters in GGUF: what must hold before llama.cpp gets one.

use super::{GgmlType, Gguf, GgufError, TensorInfo};

/// The two matrices that change one tensor of the base model: `W + scale * B A`.
#[derive(Clone, Copy, Debug)]
pub struct LoraPair<'a> {
    /// The name of the base model's tensor.
    pub base: &'a str,
    /// `<base>.lora_a`: `[n_in, rank]`, fastest dimension first; `[rank, n_vocab]` for `token_embd.weight`.
    pub a: &'a TensorInfo,
    /// `<base>.lora_b`: `[rank, n_out]`.
    pub b: &'a TensorInfo,
}

impl LoraPair<'_> {
    /// The rank of the change.
    pub fn rank(&self) -> usize {
        self.b.dims[0] as usize
    }

    /// llama.cpp looks token embeddings up by row, and so keeps their A transposed.
    fn is_embedding(&self) -> bool {
        self.base.ends_with("token_embd.weight")
    }

    /// Elements of a row and number of rows of the tensor that this pair changes.
    fn base_dims(&self) -> [i64; 2] {
        if self.is_embedding() {
            [self.b.dims[1], self.a.dims[1]]
        } else {
            [self.a.dims[0], self.b.dims[1]]
        }
    }
}

/// Checks that a file is a LoRA adapter that llama.cpp can read, and gives its pairs in the order of the file.
///
/// llama.cpp aborts the process when the keys have other kinds or a pair's ranks disagree, and skips
/// norm weights silently; here all of that is an error.
///
/// # Errors
/// What is wrong with the first key or tensor that does not fit.
pub fn check_adapter(adapter: &Gguf) -> Result<Vec<LoraPair<'_>>, GgufError> {
    require_str(adapter, "general.type", "adapter")?;
    require_str(adapter, "adapter.type", "lora")?;
    adapter.architecture()?;
    let alpha = adapter.f32("adapter.lora.alpha")?;
    if !alpha.is_finite() || alpha == 0.0 {
        // llama.cpp takes an alpha of 0 as "no alpha" and scales by 1.
        return Err(bad_value("adapter.lora.alpha", "finite and not 0", alpha));
    }
    if adapter.get("adapter.alora.invocation_tokens").is_some() {
        return Err(bad_value(
            "adapter.alora.invocation_tokens",
            "absent, since activated LoRA is not supported",
            "set",
        ));
    }

    let mut pairs = Vec::new();
    for tensor in adapter.tensors() {
        let name = tensor.name.as_str();
        if let Some(base) = name.strip_suffix(".lora_a") {
            let b = partner(adapter, name, format!("{base}.lora_b"))?;
            let pair = LoraPair { base, a: tensor, b };
            check_pair(&pair)?;
            pairs.push(pair);
        } else if let Some(base) = name.strip_suffix(".lora_b") {
            partner(adapter, name, format!("{base}.lora_a"))?;
        } else {
            return Err(unusable(tensor, "is neither .lora_a nor .lora_b"));
        }
    }
    if pairs.is_empty() {
        return Err(GgufError::MissingTensor {
            tensor: "*.lora_a".into(),
        });
    }
    Ok(pairs)
}

/// [`check_adapter`], and that the adapter fits `base`: same architecture, and every pair changes a matrix of its shape.
///
/// # Errors
/// As [`check_adapter`]; [`GgufError::AdapterArchitecture`] and [`GgufError::AdapterMismatch`].
pub fn check_adapter_for<'a>(
    adapter: &'a Gguf,
    base: &Gguf,
) -> Result<Vec<LoraPair<'a>>, GgufError> {
    let pairs = check_adapter(adapter)?;
    let (ours, theirs) = (adapter.architecture()?, base.architecture()?);
    if ours != theirs {
        return Err(GgufError::AdapterArchitecture {
            adapter: ours.to_owned(),
            base: theirs.to_owned(),
        });
    }
    for pair in &pairs {
        let mismatch = |problem| GgufError::AdapterMismatch {
            tensor: pair.base.to_owned(),
            problem,
        };
        let target = base
            .tensor(pair.base)
            .ok_or_else(|| mismatch("does not exist there".into()))?;
        if pair.is_embedding() && base.tensor("output.weight").is_none() {
            // The output layer would find the pair by the tensor's name too, and abort over its transposed A.
            return Err(mismatch(
                "is also the output matrix there, which llama.cpp cannot adapt".into(),
            ));
        }
        let [n_in, n_out] = pair.base_dims();
        if target.dims != [n_in, n_out, 1, 1] || target.n_dims != 2 {
            return Err(mismatch(format!(
                "is {:?} there, and the pair changes [{n_in}, {n_out}]",
                target.shape()
            )));
        }
    }
    Ok(pairs)
}

fn check_pair(pair: &LoraPair<'_>) -> Result<(), GgufError> {
    for tensor in [pair.a, pair.b] {
        if tensor.n_dims != 2 {
            return Err(unusable(
                tensor,
                format!("has {} dimensions, and LoRA matrices have 2", tensor.n_dims),
            ));
        }
        if !matches!(
            tensor.ty,
            GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 | GgmlType::Q8_0
        ) {
            return Err(unusable(
                tensor,
                format!("is {}; LoRA matrices are f32, f16, bf16 or q8_0", tensor.ty),
            ));
        }
    }
    let rank_of_a = pair.a.dims[if pair.is_embedding() { 0 } else { 1 }];
    if rank_of_a != pair.b.dims[0] {
        let problem = format!(
            "has rank {rank_of_a}, but its .lora_b has rank {}",
            pair.b.dims[0]
        );
        return Err(unusable(pair.a, problem));
    }
    // llama.cpp removes the suffix wherever it occurs in a name, and would look for another tensor.
    if pair.base.contains(".lora_a") || pair.base.contains(".lora_b") {
        return Err(unusable(pair.a, "has a LoRA suffix within its name"));
    }
    Ok(())
}

fn partner<'a>(
    adapter: &'a Gguf,
    present: &str,
    missing: String,
) -> Result<&'a TensorInfo, GgufError> {
    adapter.tensor(&missing).ok_or_else(|| GgufError::LoraPair {
        present: present.to_owned(),
        missing,
    })
}

fn require_str(gguf: &Gguf, key: &str, expected: &str) -> Result<(), GgufError> {
    let found = gguf.str(key)?;
    if found == expected {
        Ok(())
    } else {
        Err(bad_value(key, format!("{expected:?}"), "something else"))
    }
}

fn unusable(tensor: &TensorInfo, problem: impl Into<String>) -> GgufError {
    GgufError::UnusableTensor {
        tensor: tensor.name.clone(),
        problem: problem.into(),
    }
}

fn bad_value(key: &str, expected: impl Into<String>, found: impl ToString) -> GgufError {
    GgufError::BadKeyValue {
        key: key.to_owned(),
        expected: expected.into(),
        found: found.to_string(),
    }
}
