graft_test(mixing_test mixing/mixing_test.c engine kernels)
target_sources(mixing_test PRIVATE mixing/files.c mixing/rig.c)
set_tests_properties(mixing_test PROPERTIES TIMEOUT 3600)
