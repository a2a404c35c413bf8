//! Load generator, scenario runner and micro-benches
