# The server room behind a real gRPC client: echo_server stands in for the daemon.
if(WITH_SERVER)
  add_executable(echo_server ${CMAKE_CURRENT_LIST_DIR}/echo_server.c
    ${CMAKE_CURRENT_LIST_DIR}/echo_engine.c)
  target_include_directories(echo_server PRIVATE ${CMAKE_CURRENT_LIST_DIR})
  target_link_libraries(echo_server PRIVATE server text)
  add_test(NAME e2e_server COMMAND ${CMAKE_CURRENT_LIST_DIR}/run.sh test_server.py)
  set_tests_properties(e2e_server PROPERTIES TIMEOUT 3600 SKIP_RETURN_CODE 77
    ENVIRONMENT "GRAFT_ECHO_SERVER=$<TARGET_FILE:echo_server>")
endif()
