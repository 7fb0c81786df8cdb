"""What the operations need from the outside, as Protocols, a module for each thing that is talked to. The adapters
implement them; the tests have fakes held to the same contract suites."""
