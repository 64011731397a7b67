# The tables of perf/cuda-tables.md are what the emulated device counts.
if(TARGET kern_emu AND NOT SANITIZE)
  add_executable(cuda_tables emu/tables.c emu/tables_formula.c emu/tables_rig.c)
  target_link_libraries(cuda_tables PRIVATE model sched kernels)
  add_test(NAME cuda_tables COMMAND cuda_tables --check ${CMAKE_SOURCE_DIR}/perf/cuda-tables.md)
  set_tests_properties(cuda_tables PROPERTIES TIMEOUT 1800 LABELS emulated)
endif()
