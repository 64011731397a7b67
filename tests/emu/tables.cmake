# The tables of perf/cuda-tables.md.
if(TARGET kern_emu AND NOT SANITIZE)
  add_executable(cuda_tables emu/tables.c emu/tables_formula.c emu/tables_rig.c)
  target_link_libraries(cuda_tables PRIVATE model sched kernels)
endif()
