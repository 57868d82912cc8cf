;; A component that has a plugin's exports by name, and imports an interface which no host offers. A host refuses it before
;; compiling, with the import's name.
(component
  (import "acme:telepathy/mind@1.0.0" (instance
    (export "read" (func (param "whose" string) (result string)))
  ))
  (instance $nothing)
  (export "sandmill:processor/description@0.1.0" (instance $nothing))
  (export "sandmill:processor/projector@0.1.0" (instance $nothing))
)
