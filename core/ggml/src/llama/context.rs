use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use llama_cpp_sys_2 as sys;

use super::products::WORTH_PACKING;
use super::states::{self, States, Watch};
use super::{Adapter, Batch, LlamaError, Model, Result, backend};
use crate::ggml::cpu::ThreadPool;
use crate::ggml::packed::Packing;

/// Element type of the key-value cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvType {
    /// Half precision: llama.cpp's default.
    #[default]
    F16,
    /// Single precision, for comparing numbers with another implementation.
    F32,
}

/// Whether attention is computed by the fused kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FlashAttention {
    /// Where the device has the kernel: llama.cpp's default.
    #[default]
    Auto,
    /// Never, for comparing numbers with another implementation.
    Off,
}

/// Who multiplies frozen weights that lie in the CPU's memory with tokens. Ours is for AVX-512, and for formats that ggml has no
/// tiled kernel for: Q4_0 (where it is not repacked), Q4_1, Q5_0, Q5_1, Q8_0. It computes in F32 or BF16, where ggml rounds
/// activations to 8 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Products {
    /// Ours where it is faster: with several tokens at once.
    #[default]
    Fastest,
    /// Ours with any number of tokens: a token's result does not depend on how many are computed with it.
    Alike,
    /// ggml's.
    Stock,
}

/// Sizes and switches of a context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextParams {
    /// Tokens that one sequence can hold. llama.cpp rounds it up to a multiple of 256.
    pub n_ctx: u32,
    /// Tokens that one [`Context::decode`] takes at most.
    pub n_batch: u32,
    /// Tokens that are computed at once; a batch is cut into pieces of this size.
    pub n_ubatch: u32,
    /// Independent sequences, each with `n_ctx` tokens of its own.
    pub n_seq_max: u32,
    /// Entries of one batch that may ask for logits. Each costs `n_vocab` floats, in the output and
    /// in the compute buffer.
    pub n_outputs_max: u32,
    /// Compute threads, the calling one included.
    pub n_threads: u32,
    /// See [`FlashAttention`].
    pub flash_attention: FlashAttention,
    /// See [`KvType`].
    pub kv_type: KvType,
    /// See [`Products`].
    pub products: Products,
    /// Keep the cache and its operations on the GPU where layers are offloaded.
    pub offload_kqv: bool,
    /// Keep the hidden states of every decode's tokens: their embeddings, and the output of this block (0 is the first). See
    /// [`Context::states`].
    pub states_after: Option<u32>,
}

impl Default for ContextParams {
    fn default() -> Self {
        Self {
            n_ctx: 2048,
            n_batch: 512,
            n_ubatch: 512,
            n_seq_max: 1,
            n_outputs_max: 1,
            n_threads: 2,
            flash_attention: FlashAttention::Auto,
            kv_type: KvType::F16,
            products: Products::Fastest,
            offload_kqv: true,
            states_after: None,
        }
    }
}

/// The state of decoding: a key-value cache, compute buffers, the adapters in force. Owned by one
/// thread at a time.
pub struct Context {
    // Freed by `Drop::drop`, before the fields below go.
    raw: NonNull<sys::llama_context>,
    /// Those set now. llama.cpp keeps bare pointers to them.
    adapters: Vec<Arc<Adapter>>,
    _threads: Option<ThreadPool>,
    cancel: Arc<CancelCell>,
    /// Where one was needed; llama.cpp writes to it while it decodes.
    watch: Option<Box<UnsafeCell<Watch>>>,
    /// For each entry of the last batch: whether it has logits. Empty if there was none, or it
    /// failed.
    outputs: Vec<i8>,
    n_ctx: u32,
    n_batch: u32,
    n_seq_max: u32,
    n_outputs_max: u32,
    model: Arc<Model>,
}

// SAFETY: a llama context has no thread affinity; all calls go through `&mut self` or read
// constants, and it is not `Sync`.
unsafe impl Send for Context {}

impl Context {
    /// Makes a context and its thread pool.
    ///
    /// # Errors
    /// [`LlamaError::Context`] for sizes of zero or out of range, or when memory does not suffice.
    pub fn new(model: &Arc<Model>, params: &ContextParams) -> Result<Self> {
        let from = match (params.products, Packing::fastest()) {
            (Products::Stock, _) | (_, None) => usize::MAX,
            (Products::Fastest, _) => WORTH_PACKING,
            (Products::Alike, _) => 1,
        };
        let watch = Watch::new(from, params.states_after);
        if !watch.is_needed() {
            return Self::with_eval_callback(model, params, None, std::ptr::null_mut());
        }
        let watch = Box::new(UnsafeCell::new(watch));
        let on_eval: sys::ggml_backend_sched_eval_callback = Some(states::on_eval);
        let mut context = Self::with_eval_callback(model, params, on_eval, watch.get().cast())?;
        context.watch = Some(watch);
        Ok(context)
    }

    pub(super) fn with_eval_callback(
        model: &Arc<Model>,
        params: &ContextParams,
        on_eval: sys::ggml_backend_sched_eval_callback,
        on_eval_data: *mut c_void,
    ) -> Result<Self> {
        backend::init();
        let n_outputs_max = params
            .n_outputs_max
            .max(params.n_seq_max)
            .min(params.n_batch);
        params.check()?;

        let threads = ThreadPool::new(params.n_threads);
        let cancel = Arc::new(CancelCell::default());
        // SAFETY: reads constants.
        let mut raw_params = unsafe { sys::llama_context_default_params() };
        raw_params.n_ctx = params.n_ctx.next_multiple_of(256) * params.n_seq_max;
        raw_params.n_batch = params.n_batch;
        raw_params.n_ubatch = params.n_ubatch;
        raw_params.n_seq_max = params.n_seq_max;
        raw_params.n_outputs_max = n_outputs_max;
        raw_params.n_outputs_max_per_seq = n_outputs_max;
        raw_params.n_threads = params.n_threads as i32;
        raw_params.n_threads_batch = params.n_threads as i32;
        raw_params.flash_attn_type = match params.flash_attention {
            FlashAttention::Auto => sys::LLAMA_FLASH_ATTN_TYPE_AUTO,
            FlashAttention::Off => sys::LLAMA_FLASH_ATTN_TYPE_DISABLED,
        };
        raw_params.type_k = match params.kv_type {
            KvType::F16 => sys::GGML_TYPE_F16,
            KvType::F32 => sys::GGML_TYPE_F32,
        };
        raw_params.type_v = raw_params.type_k;
        raw_params.offload_kqv = params.offload_kqv;
        // Each sequence attends to its own cells only, instead of to a mask over everyone's.
        raw_params.kv_unified = false;
        raw_params.no_perf = true;
        // States of single tokens, also where the file asks for a mean over them.
        raw_params.pooling_type = sys::LLAMA_POOLING_TYPE_NONE;
        raw_params.abort_callback = Some(on_abort);
        raw_params.abort_callback_data = Arc::as_ptr(&cancel).cast_mut().cast();
        raw_params.cb_eval = on_eval;
        raw_params.cb_eval_user_data = on_eval_data;

        // SAFETY: the model is alive and decoder-only; sizes were checked; `cancel` is shared and
        // outlives the context; exceptions are caught inside this function of llama.cpp.
        let make =
            || NonNull::new(unsafe { sys::llama_init_from_model(model.as_ptr(), raw_params) });
        let raw = backend::explain(|| model.registering(make))
            .map_err(|reason| LlamaError::Context { reason })?;
        if let Some(threads) = &threads {
            // SAFETY: both are alive, and the pool is freed after the context.
            unsafe {
                sys::llama_attach_threadpool(raw.as_ptr(), threads.as_ptr(), threads.as_ptr())
            };
        }
        // SAFETY: reads constants of a live context.
        let (n_ctx, n_batch) = unsafe {
            (
                sys::llama_n_ctx_seq(raw.as_ptr()),
                sys::llama_n_batch(raw.as_ptr()),
            )
        };
        Ok(Self {
            raw,
            adapters: Vec::new(),
            _threads: threads,
            cancel,
            watch: None,
            outputs: Vec::new(),
            n_ctx,
            n_batch,
            n_seq_max: params.n_seq_max,
            n_outputs_max,
            model: Arc::clone(model),
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Tokens that one sequence can hold.
    pub fn n_ctx(&self) -> u32 {
        self.n_ctx
    }

    /// Tokens that one decode takes at most.
    pub fn n_batch(&self) -> u32 {
        self.n_batch
    }

    /// Number of sequences.
    pub fn n_seq_max(&self) -> u32 {
        self.n_seq_max
    }

    /// Computes a batch and adds it to the cache. Stops at the next graph node once `cancel` is
    /// true (on CPU devices; a GPU finishes its ubatch).
    ///
    /// # Errors
    /// [`LlamaError::Batch`] before anything is computed; [`LlamaError::KvFull`] with the cache as
    /// it was; [`LlamaError::Cancelled`] and [`LlamaError::Decode`] with the finished ubatches in
    /// the cache.
    pub fn decode(&mut self, batch: &Batch, cancel: Option<&AtomicBool>) -> Result<()> {
        self.outputs.clear();
        if let Some(watch) = &mut self.watch {
            watch.get_mut().states = States::default();
        }
        self.check(batch)?;
        let mut n_seq_id = vec![1i32; batch.len()];
        let mut sequences = batch.sequences.clone();
        let mut seq_id: Vec<*mut i32> = sequences.iter_mut().map(|s| &raw mut *s).collect();
        let raw_batch = sys::llama_batch {
            n_tokens: batch.len() as i32,
            token: batch.tokens.as_ptr().cast_mut(),
            embd: std::ptr::null_mut(),
            pos: batch.positions.as_ptr().cast_mut(),
            n_seq_id: n_seq_id.as_mut_ptr(),
            seq_id: seq_id.as_mut_ptr(),
            logits: batch.outputs.as_ptr().cast_mut(),
        };
        let reading: Vec<_> = self
            .adapters
            .iter()
            .map(|adapter| adapter.reading())
            .collect();
        let code = self.cancel.watching(cancel, || {
            // SAFETY: every array has `n_tokens` elements and lives through the call, which only
            // reads them; ids, positions and sizes were checked above; the adapters that the
            // context points to are alive and, by `reading`, not being written.
            unsafe {
                let code = sys::llama_decode(self.raw.as_ptr(), raw_batch);
                // A GPU may still be copying logits.
                sys::llama_synchronize(self.raw.as_ptr());
                code
            }
        });
        drop(reading);
        match code {
            0 => {
                self.outputs.extend_from_slice(&batch.outputs);
                Ok(())
            }
            1 => Err(LlamaError::KvFull {
                n_tokens: batch.len(),
                n_ctx: self.n_ctx,
            }),
            2 => Err(LlamaError::Cancelled),
            code => Err(LlamaError::Decode { code }),
        }
    }

    /// Logits of entry `index` of the last batch, `[n_vocab]`.
    ///
    /// # Errors
    /// [`LlamaError::NoLogits`] when that entry did not ask for them, or the last decode failed.
    pub fn logits(&mut self, index: usize) -> Result<&[f32]> {
        let row = self.output_row(index)?;
        // SAFETY: the entry has an output of the last decode, so the pointer is to `n_vocab` floats of the context's output
        // buffer, which the next decode (needing `&mut self`) may move.
        unsafe {
            let logits = sys::llama_get_logits_ith(self.raw.as_ptr(), row);
            if logits.is_null() {
                return Err(LlamaError::NoLogits { index });
            }
            Ok(std::slice::from_raw_parts(logits, self.model.n_vocab()))
        }
    }

    /// The hidden states of the last batch's tokens, which must have been of one sequence.
    ///
    /// # Errors
    /// [`LlamaError::NoStates`] where none were asked for ([`ContextParams::states_after`]), the last decode failed, or the model's graph
    /// has no such block.
    pub fn states(&mut self) -> Result<&States> {
        let n_embd = self.model.n_embd() as usize;
        let wanted = self.outputs.len() * n_embd;
        let watch = self.watch.as_mut().map(|watch| &*watch.get_mut());
        let block = watch.and_then(Watch::block).unwrap_or("states");
        match watch.map(|watch| &watch.states) {
            Some(states)
                if wanted > 0
                    && states.block.len() == wanted
                    && states.embeddings.len() == wanted =>
            {
                Ok(states)
            }
            _ => Err(LlamaError::NoStates {
                of: block.to_owned(),
            }),
        }
    }

    /// Replaces the set of adapters, each with its scale (0 removes it). What the cache holds was
    /// computed under the old set and is no longer valid, so it is cleared.
    ///
    /// # Errors
    /// [`LlamaError::AdapterOfAnotherModel`].
    pub fn set_adapters(&mut self, adapters: &[(Arc<Adapter>, f32)]) -> Result<()> {
        if adapters
            .iter()
            .any(|(adapter, _)| !Arc::ptr_eq(adapter.model(), &self.model))
        {
            return Err(LlamaError::AdapterOfAnotherModel);
        }
        let mut pointers: Vec<_> = adapters
            .iter()
            .map(|(adapter, _)| adapter.as_ptr())
            .collect();
        let mut scales: Vec<f32> = adapters.iter().map(|&(_, scale)| scale).collect();
        // SAFETY: the arrays have the same length; the adapters belong to this model and are kept
        // alive below. The old ones still are, so a new one cannot have the address of an old one
        // and be taken for it.
        let code = unsafe {
            sys::llama_set_adapters_lora(
                self.raw.as_ptr(),
                pointers.as_mut_ptr(),
                pointers.len(),
                scales.as_mut_ptr(),
            )
        };
        debug_assert_eq!(code, 0, "llama.cpp documents no failure here");
        self.adapters = adapters
            .iter()
            .map(|(adapter, _)| Arc::clone(adapter))
            .collect();
        self.kv_clear();
        Ok(())
    }

    /// Forgets all sequences.
    pub fn kv_clear(&mut self) {
        // SAFETY: a live context of a decoder has a memory.
        unsafe { sys::llama_memory_clear(self.memory(), false) }
    }

    /// Drops the tokens of `sequence` at positions `from` and above.
    ///
    /// # Errors
    /// [`LlamaError::Sequence`]; [`LlamaError::PartialRemoval`] on recurrent models.
    pub fn kv_truncate(&mut self, sequence: i32, from: i32) -> Result<()> {
        self.check_sequence(sequence)?;
        // SAFETY: the sequence exists.
        let done = unsafe { sys::llama_memory_seq_rm(self.memory(), sequence, from.max(0), -1) };
        if done {
            Ok(())
        } else {
            Err(LlamaError::PartialRemoval)
        }
    }

    /// Makes sequence `to` a copy of sequence `from`, replacing what it held. The data is copied at
    /// the next decode.
    ///
    /// # Errors
    /// [`LlamaError::Sequence`]; [`LlamaError::PartialRemoval`] if `to` could not be cleared.
    pub fn kv_copy(&mut self, from: i32, to: i32) -> Result<()> {
        self.check_sequence(from)?;
        if from == to {
            return Ok(());
        }
        self.kv_truncate(to, 0)?;
        // SAFETY: both sequences exist; whole sequences are copied, which is all that is allowed
        // between streams.
        unsafe { sys::llama_memory_seq_cp(self.memory(), from, to, -1, -1) };
        Ok(())
    }

    /// The last position that `sequence` holds, or `None` if it is empty.
    ///
    /// # Errors
    /// [`LlamaError::Sequence`].
    pub fn kv_last_position(&self, sequence: i32) -> Result<Option<i32>> {
        self.check_sequence(sequence)?;
        // SAFETY: the sequence exists.
        let last = unsafe { sys::llama_memory_seq_pos_max(self.memory(), sequence) };
        Ok((last >= 0).then_some(last))
    }

    /// Checks that entry `index` of the last batch has an output, for the calls that take such an
    /// index.
    fn output_row(&self, index: usize) -> Result<i32> {
        match self.outputs.get(index) {
            Some(1) => Ok(index as i32),
            _ => Err(LlamaError::NoLogits { index }),
        }
    }

    fn memory(&self) -> sys::llama_memory_t {
        // SAFETY: reads a pointer of a live context.
        unsafe { sys::llama_get_memory(self.raw.as_ptr()) }
    }

    fn check_sequence(&self, sequence: i32) -> Result<()> {
        if sequence >= 0 && (sequence as u32) < self.n_seq_max {
            Ok(())
        } else {
            Err(LlamaError::Sequence {
                sequence,
                n_seq_max: self.n_seq_max,
            })
        }
    }

    fn check(&self, batch: &Batch) -> Result<()> {
        let refuse = |reason: String| Err(LlamaError::Batch { reason });
        if batch.is_empty() || batch.len() > self.n_batch as usize {
            return refuse(format!(
                "{} tokens, where 1 to n_batch = {} are allowed",
                batch.len(),
                self.n_batch
            ));
        }
        let outputs = batch.outputs.iter().filter(|&&o| o != 0).count();
        if outputs > self.n_outputs_max as usize {
            return refuse(format!(
                "{outputs} outputs, where n_outputs_max = {}",
                self.n_outputs_max
            ));
        }
        let n_vocab = self.model.n_vocab();
        let mut next = vec![None; self.n_seq_max as usize];
        for (i, &token) in batch.tokens.iter().enumerate() {
            if token < 0 || token as usize >= n_vocab {
                return refuse(format!(
                    "token {token} at {i} is outside the vocabulary of {n_vocab}"
                ));
            }
            let sequence = batch.sequences[i];
            self.check_sequence(sequence)?;
            let next = &mut next[sequence as usize];
            let expected = match *next {
                Some(position) => position,
                None => self.kv_last_position(sequence)?.map_or(0, |last| last + 1),
            };
            let position = batch.positions[i];
            if position != expected {
                return refuse(format!(
                    "position {position} at {i} of sequence {sequence}, where {expected} comes next"
                ));
            }
            if position as u32 >= self.n_ctx {
                return Err(LlamaError::KvFull {
                    n_tokens: batch.len(),
                    n_ctx: self.n_ctx,
                });
            }
            *next = Some(position + 1);
        }
        Ok(())
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: freed once, and before the adapters, the thread pool, the cancel cell and the
        // model that it points to.
        unsafe { sys::llama_free(self.raw.as_ptr()) }
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("n_ctx", &self.n_ctx)
            .field("n_seq_max", &self.n_seq_max)
            .finish_non_exhaustive()
    }
}

impl ContextParams {
    fn check(&self) -> Result<()> {
        let refuse = |reason: String| Err(LlamaError::Context { reason });
        // SAFETY: reads a constant.
        let most_sequences = unsafe { sys::llama_max_parallel_sequences() } as u32;
        let in_range = [
            ("n_ctx", self.n_ctx, 1, 1 << 24),
            ("n_seq_max", self.n_seq_max, 1, most_sequences),
            ("n_batch", self.n_batch, self.n_seq_max, 1 << 20),
            ("n_ubatch", self.n_ubatch, 1, self.n_batch),
            ("n_threads", self.n_threads, 1, 512),
        ];
        for (name, value, low, high) in in_range {
            if value < low || value > high {
                return refuse(format!(
                    "{name} = {value}, where {low} to {high} are allowed"
                ));
            }
        }
        if u64::from(self.n_ctx.next_multiple_of(256)) * u64::from(self.n_seq_max) > 1 << 30 {
            return refuse(format!(
                "n_ctx = {} times n_seq_max = {} is beyond 2^30",
                self.n_ctx, self.n_seq_max
            ));
        }
        Ok(())
    }
}

/// Where llama.cpp's abort callback looks for the flag of the decode that is running; null when
/// there is none.
#[derive(Default)]
struct CancelCell(AtomicPtr<AtomicBool>);

impl CancelCell {
    fn watching<T>(&self, cancel: Option<&AtomicBool>, f: impl FnOnce() -> T) -> T {
        /// Clears the cell on every way out: the flag's borrow ends with the call.
        struct Clear<'a>(&'a CancelCell);
        impl Drop for Clear<'_> {
            fn drop(&mut self) {
                self.0.0.store(std::ptr::null_mut(), Ordering::Release);
            }
        }
        let _clear = Clear(self);
        self.0.store(
            cancel.map_or(std::ptr::null_mut(), |flag| (&raw const *flag).cast_mut()),
            Ordering::Release,
        );
        f()
    }
}

unsafe extern "C" fn on_abort(data: *mut c_void) -> bool {
    // SAFETY: `data` is the context's `CancelCell`; the flag in it is null or borrowed for the
    // decode that is calling us.
    unsafe {
        let flag = (*data.cast::<CancelCell>()).0.load(Ordering::Acquire);
        !flag.is_null() && (*flag).load(Ordering::Relaxed)
    }
}
