//! Tests of the bindings and of core as they run in a browser and in Node.
