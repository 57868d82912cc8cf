;; A component that imports an interface which no host offers. A host refuses it before compiling, with the import's name.
(component
  (import "acme:telepathy/mind@1.0.0" (instance
    (export "read" (func (param "person" string) (result string))))))
