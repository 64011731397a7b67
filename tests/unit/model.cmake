graft_test(model_safetensors_test unit/model_safetensors_test.c model)
graft_test(model_config_test unit/model_config_test.c model)
graft_test(model_hybrid_test unit/model_hybrid_test.c model)
graft_test(model_load_test unit/model_load_test.c model kern_ref)
