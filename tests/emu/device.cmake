# The device half of the emulation: faults of kernels that it must find, and the same results in
# every order of blocks, warps and lanes.
if(TARGET kern_emu)
  add_library(emu_kernels STATIC emu/faults.cu emu/samples.cu)
  set_source_files_properties(emu/faults.cu emu/samples.cu
    PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-xc++;-g")
  target_link_libraries(emu_kernels PUBLIC kern_emu)
  graft_test(emu_faults_test emu/faults_test.c emu_kernels)
  graft_test(emu_samples_test emu/samples_test.c emu_kernels)
  set_tests_properties(emu_faults_test emu_samples_test PROPERTIES LABELS emulated)
endif()
