use std::path::Path;
use std::time::Instant;
use thumbprint_tune::adapter::*;
use thumbprint_tune::batch::*;
use thumbprint_tune::graph::*;
use thumbprint_tune::model::Model;

fn main() {
    let path = std::env::var("THUMBPRINT_TEST_MODEL").unwrap();
    let golden: serde_json::Value = serde_json::from_str(&std::fs::read_to_string("tests/golden/logps.json").unwrap()).unwrap();
    let ids = |v: &serde_json::Value| -> Vec<i32> { v.as_array().unwrap().iter().map(|x| x.as_i64().unwrap() as i32).collect() };
    let fl = |v: &serde_json::Value| -> Vec<f64> { v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect() };
    let pairs = golden["pairs"].as_array().unwrap();
    println!("{} pairs; keys {:?}", pairs.len(), pairs[0].as_object().unwrap().keys().collect::<Vec<_>>());
    for kernels in if std::env::var("FAST").is_ok() { vec![Kernels::BF16] } else { vec![Kernels::EXACT, Kernels::BF16] } {
        let model = Model::open(Path::new(&path)).unwrap();
        let shapes: Vec<LoraShape> = model.parts().map(|(layer, part, n_in)| LoraShape { layer, module: part.module, n_in, n_out: part.n_out }).collect();
        let mut config = LoraConfig::default();
        config.rank = 8; config.alpha = 16.0;
        let mut lora = Lora::new(config, &shapes).unwrap();
        lora.randomize_b(0.02, 1);
        let options = NetworkOptions { n_threads: std::env::var("NT").map_or(2, |s| s.parse().unwrap()), max_tokens: 512, kernels, checkpoint: std::env::var("CHECKPOINT").is_ok(), head_rows: 256 };
        let mut net = Network::new(model, options, Some(&lora)).unwrap();
        let mut worst: f64 = 0.0; let mut worst_sum: f64 = 0.0;
        for p in pairs.iter().take(6) {
            let (prompt, chosen, rejected) = (ids(&p["prompt_ids"]), ids(&p["chosen_ids"]), ids(&p["rejected_ids"]));
            let packed = Packed::new(&[Group { prompt: &prompt, completions: &[&chosen, &rejected] }]);
            let s = net.score(&packed, false).unwrap();
            for (i, k) in ["chosen_logps_f64", "rejected_logps_f64"].iter().enumerate() {
                let want = fl(&p[*k]);
                for (a, b) in s.logps[i].iter().zip(&want) { worst = worst.max((a - b).abs()); }
                worst_sum = worst_sum.max((s.sum(i) - want.iter().sum::<f64>()).abs());
            }
        }
        println!("{kernels:?} worst token diff {worst:.2e} worst sum {worst_sum:.2e}");
        // a 512-token step
        let mut groups = vec![]; let mut n = 0; let mut store = vec![];
        for p in pairs.iter() { store.push((ids(&p["prompt_ids"]), ids(&p["chosen_ids"]), ids(&p["rejected_ids"]))); }
        let comps: Vec<[&[i32]; 2]> = store.iter().map(|s| [&s.1[..], &s.2[..]]).collect();
        for (s, c) in store.iter().zip(&comps) { let g = Group { prompt: &s.0, completions: c }; if n + g.n_rows() <= 512 { n += g.n_rows(); groups.push(g); } }
        let packed = Packed::new(&groups);
        println!("rows {} targets {}", packed.tokens.len(), packed.targets.len());
        let mut grads = vec![0f32; lora.values.len()];
        for _ in 0..3 {
            let t = Instant::now();
            let s = net.forward(&packed).unwrap();
            let f = t.elapsed();
            let coef: Vec<f64> = (0..s.logps.len()).map(|i| if i % 2 == 0 { -0.05 } else { 0.05 }).collect();
            net.backward(&packed, &coef, &lora, &mut grads).unwrap();
            println!("forward {f:?} total {:?} bytes {} MiB", t.elapsed(), net.n_bytes() >> 20);
        }
        println!("rss {}", std::fs::read_to_string("/proc/self/status").unwrap().lines().filter(|l| l.starts_with("VmHWM") || l.starts_with("RssAnon")).collect::<Vec<_>>().join(" "));
    }
}
