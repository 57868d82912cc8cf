;; WebAssembly, but a core module and no component. A host refuses it and says how to make a component of it.
(module
  (memory (export "memory") 1)
  (func (export "project") (result i32) i32.const 0))
