;; What `warm_up.rs` runs once in every worker before it is ready: it touches what a first request would touch
;; cold. `warm_up.wasm` beside it is this text in binary; a test compares them.
(component
  (core module $m
    (memory (export "memory") 17)
    (func (export "run") (i32.store (i32.const 0) (i32.const 1))))
  (core instance $i (instantiate $m))
  (func (export "run") (canon lift (core func $i "run"))))
