# The daemon itself on the demo model, with its adapters, behind a real gRPC client and graftctl.
if(TARGET graftd AND TARGET graftctl)
  add_test(NAME e2e_daemon COMMAND ${CMAKE_CURRENT_LIST_DIR}/run.sh test_daemon.py)
  set(e2e_daemon_environment "GRAFT_DAEMON=$<TARGET_FILE:graftd>"
    "GRAFT_CTL=$<TARGET_FILE:graftctl>")
  if(SANITIZE)
    list(APPEND e2e_daemon_environment "GRAFT_SANITIZED=${SANITIZE}")
  endif()
  if(TARGET kern_emu)
    # The emulated device takes tens of milliseconds for a step: what shows it through gRPC.
    add_test(NAME e2e_emulated COMMAND ${CMAKE_CURRENT_LIST_DIR}/run.sh test_daemon.py
      test_daemon_device test_daemon_generate.Crowd.test_streams_answer_as_alone
      test_daemon_generate.Ends test_daemon_generate.Refusals
      test_daemon_ctl.Graftctl.test_generate
      test_daemon_states.Goldens test_daemon_states.FalconGoldens test_daemon_states.States
      test_daemon_states.Dense test_daemon_states.LittleMemory)
    set_tests_properties(e2e_emulated PROPERTIES TIMEOUT 3600 SKIP_RETURN_CODE 77 LABELS emulated
      ENVIRONMENT "${e2e_daemon_environment};GRAFT_SANITIZED=emulated;GRAFT_E2E_PATIENCE=240")
  endif()
  set_tests_properties(e2e_daemon PROPERTIES TIMEOUT 3600 SKIP_RETURN_CODE 77
    ENVIRONMENT "${e2e_daemon_environment}")
endif()
